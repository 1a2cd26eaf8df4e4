"""The specification of `model_export`, as tests."""
