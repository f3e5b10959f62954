"""Repaint a photograph through a running studio: studio_client.py ADDRESS PHOTO STYLE OUT.png

The studio's other functions are /paint, /light and /film; `client.view_api()` describes them all.
"""

import shutil
import sys

import httpx
from gradio_client import Client, handle_file


def main(address: str, photo: str, style: str, out: str) -> None:
    # The studio gives every visitor a session; requests with its token can reach its files, others cannot.
    cookies = httpx.get(address, timeout=60).cookies
    session = {"x-impasto-session": next(cookies[name] for name in cookies if name.startswith("impasto-session"))}
    client = Client(address, headers=session, verbose=False, analytics_enabled=False)
    painted = client.predict(
        photo=handle_file(photo), style=style, strength=1.0, size=0, keep_colors="none", api_name="/repaint"
    )
    shutil.copy(painted, out)
    print(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
