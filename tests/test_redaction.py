import pytest

from fer_lightning.redaction import redact


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (r"tracking.uri\=http\://me\:secret@host", r"tracking.uri\=http\://me\:***@host"),
        ("http://me:secret@host:5000/x", "http://me:***@host:5000/x"),
        ("at postgresql+psycopg2://me:se@cret@host/db now", "at postgresql+psycopg2://me:***@host/db now"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=me&password=***"),
        ("postgresql://me:a/b?c@host/db", "postgresql://me:***@host/db"),
        ("mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Dsecret&x=1", "mssql+pyodbc:///?odbc_connect=***&x=1"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:///mlruns/mlflow.db", "sqlite:///mlruns/mlflow.db"),
        ("http://a:1@b and http://c:2@d", "http://a:***@b and http://c:***@d"),
    ],
)
def test_passwords_are_redacted(text, hidden):
    assert redact(text) == hidden
