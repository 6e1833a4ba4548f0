"""How long tests wait for what takes seconds on an idle machine; a busy one may be ten times as slow, and no defect."""

PATIENCE_S = 900
RUN_S = 2700  # for a whole run
