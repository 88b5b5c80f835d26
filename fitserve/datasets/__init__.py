"""Tables: read with exact errors, understood, profiled, stored and split."""
