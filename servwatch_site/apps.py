from django.apps import AppConfig


class ServwatchSiteConfig(AppConfig):
    name = "servwatch_site"
    verbose_name = "Servwatch"

    def ready(self) -> None:
        from servwatch_site import checks  # noqa: F401 - registers the system checks
