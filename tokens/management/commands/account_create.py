"""`manage.py account_create EMAIL`: a new account and the person who signs in to it."""

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.validators import validate_email
from django.db import transaction

from tokens.models import User
from tokens.services import account_create, user_create


class Command(BaseCommand):
    help = "Create an account and the person who signs in to it; `sign_in_link` lets them in."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email")
        parser.add_argument("--organization", default="")
        parser.add_argument("--time-zone", default="UTC", help="for example Asia/Tokyo")

    def handle(self, *args: Any, **options: Any) -> None:
        email = options["email"]
        try:
            validate_email(email)
            if User.objects.filter(email__iexact=email).exists():
                raise CommandError(f"{email} signs in already.")
            with transaction.atomic():
                account = account_create(
                    organization=options["organization"], email=email, locale=options["time_zone"]
                )
                user_create(email=email, account=account)
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from None
        self.stdout.write(
            f"{account.user_id} is created. `manage.py sign_in_link {email}` prints a link to sign in."
        )
