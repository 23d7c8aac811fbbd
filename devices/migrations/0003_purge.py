from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("devices", "0002_session")]

    operations = [
        migrations.AddField("device", "purge_wanted", models.BooleanField(db_default=False, default=False)),
        migrations.AddField("device", "purged_at", models.DateTimeField(blank=True, null=True)),
        migrations.AddField("device", "purged_records", models.BigIntegerField(db_default=0, default=0)),
    ]
