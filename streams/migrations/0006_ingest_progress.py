import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("streams", "0005_listener_slots"),
    ]

    operations = [
        migrations.CreateModel(
            name="IngestWay",
            fields=[
                ("name", models.CharField(max_length=8, primary_key=True, serialize=False)),
                ("live_until", models.DateTimeField(null=True)),
                ("reported_at", models.DateTimeField(null=True)),
                ("live_since", models.DateTimeField(null=True)),
            ],
        ),
        migrations.CreateModel(
            name="IngestPause",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("began_at", models.DateTimeField()),
                ("ended_at", models.DateTimeField(db_index=True)),
                (
                    "way",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="pauses",
                        to="streams.ingestway",
                    ),
                ),
            ],
        ),
        migrations.AddField(
            model_name="listenerslot",
            name="live_since",
            field=models.DateTimeField(null=True),
        ),
    ]
