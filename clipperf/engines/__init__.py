"""One module per runtime, found by its file name: see `_contract` for what each must offer."""
