from django.db import migrations, models

from streams.storage import CreateTimeSeriesTable

COLUMNS = """
    device_key bigint NOT NULL, at timestamptz NOT NULL, channel_key bigint NOT NULL,
    records integer NOT NULL, whole boolean NOT NULL, tag varchar(64) NOT NULL,
    streams integer[] NOT NULL, counts bigint[], sums numeric[] NOT NULL, lows numeric[], highs numeric[]
"""


class Migration(migrations.Migration):
    dependencies = [
        ("streams", "0002_kept_answers"),
    ]

    operations = [
        migrations.CreateModel(
            name="RollupMark",
            fields=[
                ("id", models.SmallIntegerField(default=1, primary_key=True, serialize=False)),
                ("late_from", models.DateTimeField()),
                ("rolled_until", models.DateTimeField(null=True)),
                ("barrier", models.BigIntegerField(null=True)),
            ],
        ),
        migrations.CreateModel(
            name="RollupDue",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("device_key", models.BigIntegerField()),
                ("channel_key", models.BigIntegerField()),
                ("low", models.DateTimeField()),
                ("high", models.DateTimeField()),
            ],
            options={
                "indexes": [
                    models.Index(fields=["channel_key"], name="streams_due_channel"),
                    models.Index(fields=["device_key"], name="streams_due_device"),
                ],
            },
        ),
        CreateTimeSeriesTable(
            "streams_rollupminute",
            columns=COLUMNS,
            key=["device_key", "at", "channel_key", "tag"],
            indexes={"streams_rollupminute_channel": ["channel_key", "at"]},
        ),
        migrations.RunSQL(
            sql=f"""
                CREATE TABLE streams_rolluphour ({COLUMNS}, PRIMARY KEY (device_key, at, channel_key, tag));
                CREATE INDEX streams_rolluphour_channel ON streams_rolluphour (channel_key, at);
            """,
            reverse_sql="DROP TABLE streams_rolluphour",
        ),
    ]
