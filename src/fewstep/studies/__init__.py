"""Many runs side by side: a sweep of settings with its table, and the comparison of run folders."""
