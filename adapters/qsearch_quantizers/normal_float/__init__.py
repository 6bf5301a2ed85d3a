"""The normal-float quantizer: levels, blocks of codes, scales, decoding by bitsandbytes."""
