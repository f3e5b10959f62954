"""Repaint a photograph through a studio that is running: studio_client.py ADDRESS PHOTO STYLE OUT.png

The studio's other functions are /paint and /light; `client.view_api()` describes them all.
"""

import secrets
import shutil
import sys

from gradio_client import Client, handle_file


def main(address: str, photo: str, style: str, out: str) -> None:
    # The header makes one session of all requests: no other session reaches its files.
    session = {"x-impasto-session": secrets.token_urlsafe(24)}
    client = Client(address, headers=session, verbose=False, analytics_enabled=False)
    painted = client.predict(
        photo=handle_file(photo), style=style, strength=1.0, size=0, keep_colors="none", api_name="/repaint"
    )
    shutil.copy(painted, out)
    print(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
