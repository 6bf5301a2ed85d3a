"""One configuration's model in the formats that engines load; the registry is in ``formats``."""
