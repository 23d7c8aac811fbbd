from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("events", "0002_notifiers")]

    operations = [
        migrations.AddField(
            model_name="delivery",
            name="leased_until",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AlterField(
            model_name="notification",
            name="kind",
            field=models.CharField(
                choices=[
                    ("firing", "firing"),
                    ("resolved", "resolved"),
                    ("repeat", "still firing"),
                    ("awake", "firing after a snooze"),
                    ("flapping", "flapping"),
                    ("calm", "no longer flapping"),
                    ("acked", "acknowledged"),
                ],
                max_length=8,
            ),
        ),
        migrations.AddIndex(
            model_name="delivery",
            index=models.Index(
                fields=["notifier", "id"],
                condition=models.Q(status="pending"),
                name="events_delivery_order",
            ),
        ),
        migrations.AddIndex(
            model_name="delivery",
            index=models.Index(
                fields=["expires_at"],
                condition=models.Q(status="pending"),
                name="events_delivery_expiry",
            ),
        ),
        migrations.AddIndex(
            model_name="delivery",
            index=models.Index(
                fields=["id"], condition=models.Q(status="expired"), name="events_delivery_expired"
            ),
        ),
    ]
