"""Who runs what: each strategy is a module, `placement` the ground they stand on, `registry` their
list."""
