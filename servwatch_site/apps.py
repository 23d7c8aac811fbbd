from django.apps import AppConfig


class ServwatchSiteConfig(AppConfig):
    name = "servwatch_site"
    verbose_name = "Servwatch"

    def ready(self) -> None:
        from django.db.backends.signals import connection_created

        from servwatch_site import checks  # noqa: F401 - registers the system checks
        from servwatch_site.fast_times import times_load_fast

        connection_created.connect(times_load_fast)
