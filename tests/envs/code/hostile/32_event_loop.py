# stdin | socket pairs and event loops, which need sockets
import asyncio, socket

try:
    socket.socketpair()
    print("LEAK pair")
except OSError:
    pass


async def main():
    print("LEAK loop")


try:
    asyncio.run(main())
except OSError as error:
    print(error)
