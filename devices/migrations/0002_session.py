import django.contrib.postgres.fields
import django.contrib.postgres.indexes
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("devices", "0001_initial"),
        ("tokens", "0002_config_row_and_cache"),
    ]

    operations = [
        migrations.CreateModel(
            name="BrokerFollowed",
            fields=[
                ("broker", models.TextField(primary_key=True, serialize=False)),
                ("until", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name="Session",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("broker", models.TextField()),
                ("client_id", models.TextField()),
                ("device_id", models.TextField(blank=True)),
                ("named_device", models.TextField(blank=True)),
                ("ipaddress", models.CharField(max_length=64)),
                ("clean_sess", models.BooleanField()),
                ("proto_ver", models.PositiveSmallIntegerField()),
                ("keepalive", models.PositiveIntegerField()),
                ("connected_at", models.DateTimeField()),
                ("connected", models.BooleanField()),
                ("takes_commands", models.BooleanField(default=False)),
                (
                    "commands_for",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.TextField(), blank=True, default=list, size=None
                    ),
                ),
                ("token_digest", models.CharField(blank=True, max_length=64)),
                (
                    "account",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="sessions",
                        to="tokens.account",
                    ),
                ),
            ],
            options={
                "indexes": [
                    models.Index(fields=["account", "client_id"], name="devices_session_client"),
                    models.Index(fields=["account", "device_id"], name="devices_session_device"),
                    models.Index(fields=["account", "named_device"], name="devices_session_named"),
                    django.contrib.postgres.indexes.GinIndex(
                        fields=["commands_for"], name="devices_session_commands"
                    ),
                ],
                "constraints": [
                    models.UniqueConstraint(fields=("broker", "client_id"), name="devices_session_unique")
                ],
            },
        ),
    ]
