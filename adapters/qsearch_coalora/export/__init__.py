"""One configuration's model in the formats that engines load."""
