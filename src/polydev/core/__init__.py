"""The rules: who may do what, which run goes where, which credential is fresh."""
