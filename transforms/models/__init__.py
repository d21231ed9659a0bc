r"""Models, from a handle to labels. No module here imports Beam.

Before a run, the launching process settles all properties of a model once, in a `ModelSpec`:

    handle --cache--> path --kinds--> contract, digest --spec--> ModelSpec
    (presets)                                             ^
                      sample photos --probe--> evidence --+--> doubts

  cache     finds or downloads a model            probe     runs the model on the sample photos
  kinds     saved_model, keras_file: one each     evidence  draws conclusions from the outputs
  contract  inputs and outputs in the file        doubts    warns if properties contradict each other
  spec      option, preset, contract, evidence: the first that shows a property decides

In a run, each worker process checks the digest, loads the model (devices, loading), and runs batches:

    single images [S, S, 3] uint8, from all threads and bundles
          |  batching     collects a full batch, or a part at a flush
          |  classifier   pads it to one of few sizes, halves it when memory is short
          v
    batch [N, S, S, 3] uint8
          |  scaling      casts and scales to the model's input range   \
          |  kinds        calls the model                               |  one graph, built by
          |  heads        turns outputs into scores in [0, 1]           |  optimise, frozen by loading
          |  optimise     takes the k best classes                      /
          v
    TopK, one an image: class ids, scores, outputs

tuning tries batch sizes, call_checks bounds the time of calls, meter counts, reuse shares results.
"""
