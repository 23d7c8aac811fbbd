from servwatch_site.tests.cast import NOW, BaseTestCase
from tokens.config import config_version
from tokens.models import ApiToken, DeviceToken
from tokens.selectors import api_token_find, device_token_digest, device_token_reveal, device_tokens_in_force
from tokens.services import account_create, api_token_issue, api_token_revoke, device_token_issue


class AccountsTest(BaseTestCase):
    def test_it_counts_user_ids_up(self) -> None:
        first, second = account_create(), account_create()
        assert int(second.user_id[1:]) == int(first.user_id[1:]) + 1
        assert first.user_id[0] == "U" and len(first.user_id) == 7

    def test_it_counts_every_change_in_the_config_version(self) -> None:
        before = config_version()
        device_token_issue(self.owner)
        assert config_version() > before


class ApiTokensTest(BaseTestCase):
    def test_it_finds_a_token_by_its_secret_and_keeps_only_a_digest(self) -> None:
        token, secret = api_token_issue(self.owner, name="ci", scopes=["read"])
        assert api_token_find(secret, now=NOW) == token
        stored = ApiToken.objects.values().get(pk=token.pk)
        assert secret not in str(stored)

    def test_it_refuses_a_revoked_or_expired_or_foreign_secret(self) -> None:
        token, secret = api_token_issue(self.owner, name="ci", scopes=["read"])
        api_token_revoke(token, now=NOW)
        assert api_token_find(secret, now=NOW) is None
        _, old = api_token_issue(self.owner, name="old", scopes=["read"], expires_at=NOW)
        assert api_token_find(old, now=NOW) is None
        assert api_token_find("nonsense", now=NOW) is None


class DeviceTokensTest(BaseTestCase):
    def test_it_encrypts_the_token_and_finds_it_by_digest(self) -> None:
        row = DeviceToken.objects.get(account=self.owner, revoked_at=None)
        assert self.device_token not in row.ciphertext
        assert row.digest == device_token_digest(self.device_token)

    def test_it_replaces_the_token_and_keeps_the_old_row_revoked(self) -> None:
        new = device_token_issue(self.owner)
        assert new != self.device_token
        assert device_token_reveal(self.owner) == new
        assert device_tokens_in_force()[self.owner.user_id] == new
        assert DeviceToken.objects.filter(account=self.owner, revoked_at__isnull=False).count() == 1
