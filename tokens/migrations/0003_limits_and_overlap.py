from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tokens", "0002_config_row_and_cache")]

    operations = [
        migrations.AddField("account", "api_per_second", models.PositiveSmallIntegerField(default=3)),
        migrations.AddField("account", "connector_per_second", models.PositiveSmallIntegerField(default=1)),
        migrations.AddField("devicetoken", "overlap_until", models.DateTimeField(blank=True, null=True)),
        # What is counted need not survive a crash. Room on each page lets updates stay on it.
        migrations.RunSQL(
            "CREATE UNLOGGED TABLE tokens_counter (key varchar(255) PRIMARY KEY, value bigint NOT NULL,"
            " expires_at timestamptz NOT NULL) WITH (fillfactor = 70);"
            " CREATE INDEX tokens_counter_expires ON tokens_counter (expires_at)",
            "DROP TABLE tokens_counter",
        ),
    ]
