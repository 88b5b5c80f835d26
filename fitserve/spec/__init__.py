"""The spec: what to train, how, on what. Names and arguments are Keras's; nothing in it can name code.

text.parse_text(bytes) or spec.parse(dict) -> Spec          what was written, checked by itself
resolve.resolve(Spec, DatasetFacts, Limits) -> Resolved     checked against a dataset, every default written out
schema.json_schema()                                        the same, for editors and other languages

Nothing is imported here: the prediction service needs the facts and features alone, not every layer and loss.
"""
