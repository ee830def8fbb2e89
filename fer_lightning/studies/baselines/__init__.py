"""Every published system beside what was measured here."""
