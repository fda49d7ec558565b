"""One folder a vendor's CLI; `base` is the contract, `registry` the list."""
