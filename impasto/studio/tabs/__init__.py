"""The studio's tabs, one module each; `studio.server.TABS` lists them."""
