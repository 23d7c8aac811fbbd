from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("tokens", "0001_initial")]

    operations = [
        migrations.RunSQL(
            "INSERT INTO tokens_configversion (id, version) VALUES (1, 0)",
            "DELETE FROM tokens_configversion",
        ),
        # The table of Django's database cache. Unlogged: what it counts need not survive a crash.
        migrations.RunSQL(
            "CREATE UNLOGGED TABLE servwatch_cache (cache_key varchar(255) PRIMARY KEY, value text NOT NULL,"
            " expires timestamptz NOT NULL);"
            " CREATE INDEX servwatch_cache_expires ON servwatch_cache (expires)",
            "DROP TABLE servwatch_cache",
        ),
    ]
