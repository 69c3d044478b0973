"""WebShop in one process: catalogue, search, pages, reward and goals of the original shop, without Java or a server."""
