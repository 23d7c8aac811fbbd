"""`manage.py sign_in_link EMAIL`: a link that signs a person in once."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from console.sign_in import sign_in_url
from tokens.models import User


class Command(BaseCommand):
    help = "Print a link that signs a person in once, for a day at most."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "email", nargs="?", help="whose link; may be left out while there is only one person"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        people = User.objects.filter(is_active=True)
        if options["email"]:
            people = people.filter(email__iexact=options["email"])
        found = list(people[:2])
        if not found:
            raise CommandError("Nobody with this e-mail address signs in here.")
        if len(found) > 1:
            raise CommandError("Several people sign in here; say whose link you want, by e-mail address.")
        self.stdout.write(sign_in_url(found[0]))
