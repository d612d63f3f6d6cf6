"""How long an inference takes: warm-up, interleaved rounds, raw samples, and what the machine did meanwhile. numpy alone."""
