"""Whether two sets of outputs are the same answers: metrics, their confidence intervals, and gates. numpy alone."""
