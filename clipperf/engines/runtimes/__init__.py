"""One file a runtime, named after it: a `Runtime` record called RUNTIME."""
