"""Room on each page for counters that are updated with each batch."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("devices", "0004_commands")]

    operations = [
        migrations.RunSQL(
            "ALTER TABLE devices_devicetraffic SET (fillfactor = 70)",
            "ALTER TABLE devices_devicetraffic RESET (fillfactor)",
        ),
    ]
