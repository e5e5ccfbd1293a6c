"""An order that survives crashes: kill this program while it packs and start it again. It goes on, and charges once."""

import asyncio
import time

import cairn

app = cairn.App()  # CAIRN_URL, or http://127.0.0.1:8080


@app.task(max_attempts=3)
async def fulfil(ctx: cairn.Context, order: dict[str, str]) -> str:
    payment = await ctx.step("charge", charge, order["price"], ctx.key("charge"))
    parcel = await ctx.step("pack", pack, order["item"])
    await ctx.sleep("let them change their mind", 1)
    address = await ctx.event(f"address:{order['id']}", timeout=86400)
    return f"{payment}: {parcel}, to {address}"


def charge(price: str, idempotency_key: str) -> str:
    print("charging", price, flush=True)  # a bank that is given the same key again does nothing
    return f"paid {price}"


def pack(item: str) -> str:
    print("packing", item, flush=True)
    time.sleep(3)
    return f"a parcel with {item}"


async def main() -> None:
    async with app, app.worker():
        order = {"id": "7", "item": "a lamp", "price": "30 kr"}
        handle = await app.spawn(fulfil, order, key="order:7")  # the same key again: the same task
        await app.emit("address:7", "Stockholm")
        print(await handle.result())


asyncio.run(main())
