"""Tables: parsed with exact errors, understood, profiled, split and encoded."""
