from django.db import migrations

from streams.storage import AddDeviceBucket


class Migration(migrations.Migration):
    """On TimescaleDB the records are written anew once, with everybody locked out."""

    dependencies = [("streams", "0003_rollups")]

    operations = [AddDeviceBucket("streams_record", key=["device_key", "at", "digest"])]
