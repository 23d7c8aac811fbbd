"""Who may see a page: people signed in to an account, and objects of that account only."""

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

from servwatch_site.errors import ServwatchError
from tokens.models import Account, User

View = Callable[..., HttpResponse]


def account_page(view: View) -> View:
    """For signed-in people; what does not exist for their account is a 404, whoever else has it."""

    @login_required
    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if any("\0" in str(part) for part in kwargs.values()):
            raise Http404
        if account_or_none(request) is None:
            return render(request, "console/no_account.html", status=403)
        try:
            return view(request, *args, **kwargs)
        except ServwatchError as error:
            if error.status == 404:
                raise Http404(error.message) from None
            raise

    return wrapped


def account_or_none(request: HttpRequest) -> Account | None:
    return cast(User, request.user).account


def account_of(request: HttpRequest) -> Account:
    """The account of a request that account_page let through."""
    account = account_or_none(request)
    if account is None:
        raise Http404
    return account


def person_of(request: HttpRequest) -> str:
    """Who acts, for people to read."""
    return str(cast(User, request.user).email)


def query_text(request: HttpRequest, name: str) -> str:
    """A parameter of the address, without the one character that no database takes."""
    return str(request.GET.get(name, "")).replace("\0", "")


def say_error(request: HttpRequest, error: ServwatchError) -> None:
    """Show an error of the rooms below on the next page."""
    details = " ".join(f"{name}: {text}" for name, text in error.fields.items())
    messages.error(request, f"{error.message} {details}".strip())
