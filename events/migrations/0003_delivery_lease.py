from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("events", "0002_notifiers")]

    operations = [
        migrations.AddField(
            model_name="delivery",
            name="leased_until",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddIndex(
            model_name="delivery",
            index=models.Index(
                fields=["notifier", "id"],
                condition=models.Q(status="pending"),
                name="events_delivery_order",
            ),
        ),
    ]
