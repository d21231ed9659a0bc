"""Loaders: processes beside the model that fetch and decode images.

    bundle's thread ──ImageRef──> LoaderPool ──references, by socket──> loader process: threads fetch,
    bundle's thread <──Loaded─── its thread  <──pixels, by socket────── and one at a time decodes

Processes, because everything before the model would otherwise share one GIL with it, and because a decoder
that crashes or hangs takes its process along: the pool starts another, and the run goes on. Modules here
import neither Beam nor TensorFlow, so that a loader imports in 0.2 s and takes 48 MB.

| module | content |
|---|---|
| `image` | one image, from reference to pixels; in any process |
| `child` | the loader process |
| `pool` | the processes: dealing, crashes, time limits |
| `threads` | loading without processes |
| `crew`, `loaders` | both as bundles see them, and their start |
| `orders`, `schedule` | images that wait, further requests, and manners towards hosts |
| `channel` | messages between them |
| `board` | what each thread of a loader is at |
"""
