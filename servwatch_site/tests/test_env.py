from servwatch_site.env import database_from_url


def test_a_server_that_has_gone_without_a_word_is_given_up_within_seconds() -> None:
    options = database_from_url("postgresql://me@db/servwatch")["OPTIONS"]
    assert options["connect_timeout"] == "10"
    assert options["tcp_user_timeout"] == "20000"
    assert options["keepalives_idle"] == "10"
    assert "tcp_keepalives_idle=10" in options["options"]


def test_what_the_url_says_comes_first() -> None:
    url = "postgresql://me@db/servwatch?connect_timeout=3&options=-c%20statement_timeout%3D5s"
    options = database_from_url(url)["OPTIONS"]
    assert options["connect_timeout"] == "3"
    assert options["options"].endswith(" -c statement_timeout=5s")
