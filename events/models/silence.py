"""Which streams have been heard of, so that their silence can be found."""

from django.db import models

from events.models.rules import Rule


class HeardStream(models.Model):
    """A stream of a device and tag that a rule watches for silence; `key` "": the messages of the tag.

    Written by the write street when it is heard first, when it ends a silence, and when its usual distance `usual_s`
    (in measurement time) has changed; `heard_at` is of that message. Before `due_at` it cannot be silent: the worker
    moves that on. `rule_version`: of the condition that watches it.
    """

    rule = models.ForeignKey(Rule, on_delete=models.CASCADE, related_name="heard_streams")
    device_key = models.BigIntegerField(db_index=True)
    tag = models.CharField(max_length=64, blank=True)
    key = models.TextField(blank=True)
    key_digest = models.BigIntegerField()
    heard_at = models.DateTimeField()
    due_at = models.DateTimeField(db_index=True)
    usual_s = models.FloatField(null=True)
    rule_version = models.BigIntegerField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["rule", "device_key", "tag", "key_digest"], name="events_heard_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.key or self.tag} of {self.device_key}"
