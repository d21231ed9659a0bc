"""Pages: static HTML files with charts, of templates in this folder; they need `labelbeam[report]`."""
