"""`standby logout`."""

from __future__ import annotations

from standby.cli.help import lone
from standby.cli.output import Json, print_json, say, stderr, stdout
from standby.cli.vault_client import connected
from standby.cli.vault_login import forget, needed
from standby.errors import StandbyError

app = lone()


@app.command()
def logout(json: Json = False) -> None:
    """Forget the vault, and end the token that `standby login` made there."""
    login = needed()
    forget()
    if login.token_id:
        try:
            with connected(login) as client:
                client.delete("tokens", login.token_id)
        except StandbyError as error:
            # It is forgotten here whatever the vault says; that it may live on there must be told.
            say(stderr(), f"The token {login.token_id} was not ended there, revoke it in the portal: {error}")
    if json:
        print_json({"vault": login.vault})
    else:
        say(stdout(), f"Logged out of {login.vault}.")
