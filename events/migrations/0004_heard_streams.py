import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("events", "0003_delivery_lease"),
    ]

    operations = [
        migrations.CreateModel(
            name="HeardStream",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("device_key", models.BigIntegerField(db_index=True)),
                ("tag", models.CharField(blank=True, max_length=64)),
                ("key", models.TextField(blank=True)),
                ("key_digest", models.BigIntegerField()),
                ("heard_at", models.DateTimeField()),
                ("due_at", models.DateTimeField(db_index=True)),
                ("usual_s", models.FloatField(null=True)),
                ("rule_version", models.BigIntegerField()),
                (
                    "rule",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="heard_streams",
                        to="events.rule",
                    ),
                ),
            ],
        ),
        migrations.AddConstraint(
            model_name="heardstream",
            constraint=models.UniqueConstraint(
                fields=("rule", "device_key", "tag", "key_digest"), name="events_heard_unique"
            ),
        ),
    ]
