"""The spec: what to train, how, on what. Names and arguments are Keras's; nothing in it can name code.

decode.parse_bytes(bytes) or spec.parse(dict) -> Spec       as written, checked on its own
resolve.resolve(Spec, DatasetFacts, Limits) -> Resolved     checked against a dataset, every default written out
schema.json_schema()                                        the same, for editors and other languages

Nothing is imported here, because the prediction service needs only the features, not every layer and loss.
"""
