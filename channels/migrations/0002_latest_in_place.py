"""Latest values are updated in place: no index on what changes with each message, and room left on each page."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("channels", "0001_initial")]

    operations = [
        migrations.RemoveIndex(model_name="latest", name="channels_latest_channel"),
        migrations.AddIndex(
            model_name="latest", index=models.Index(fields=["channel_key"], name="channels_latest_of_channel")
        ),
        migrations.RunSQL(
            "ALTER TABLE channels_latest SET (fillfactor = 70)",
            "ALTER TABLE channels_latest RESET (fillfactor)",
        ),
    ]
