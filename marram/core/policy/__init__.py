"""Policy documents: parsed once, compiled, evaluated. `documents` reads, `variables` names, `evaluate` decides. Pure."""
