"""What several test modules share, by topic; fixtures are in conftest.py."""
