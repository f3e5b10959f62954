"""Repaint a photograph through a running studio: studio_client.py ADDRESS PHOTO STYLE OUT.png

The studio's other functions are /paint and /light; `client.view_api()` describes them all.
"""

import secrets
import shutil
import sys

from gradio_client import Client, handle_file


def main(address: str, photo: str, style: str, out: str) -> None:
    # Requests with the same header share a session; other sessions cannot reach its files.
    session = {"x-impasto-session": secrets.token_urlsafe(24)}
    client = Client(address, headers=session, verbose=False, analytics_enabled=False)
    painted = client.predict(
        photo=handle_file(photo), style=style, strength=1.0, size=0, keep_colors="none", api_name="/repaint"
    )
    shutil.copy(painted, out)
    print(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
