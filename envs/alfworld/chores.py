"""What can be asked for in a household: the six official task types.

Owns the wordings, the object and destination types that the 3,961 official games ask for, and which types are
easily mistaken for each other. Leaves out rooms and furniture (`household`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .household import names

LAMP_TASK: Final = "look_at_obj_in_light"


@dataclass(frozen=True)
class Task:
    """What one task type asks for.

    Attributes:
        sentences: the two official wordings.
        objects: object types that may be asked for.
        parents: receptacle types that may be the destination; for a lamp task, the lamp types.
        flag: what the object must become (`isClean`, `isHot`, `isCool`), or "".
        appliance: receptacle type that makes it so, or "".
        needs: fact that the object's type must have for it, or "".
        count: how many objects are asked for.
    """

    sentences: tuple[str, str]
    objects: tuple[str, ...]
    parents: tuple[str, ...]
    flag: str = ""
    appliance: str = ""
    needs: str = ""
    count: int = 1


# Types that are easily mistaken for each other.
LOOKALIKES: tuple[frozenset[str], ...] = tuple(
    frozenset(names(line))
    for line in (
        "Bowl Cup Mug Plate",
        "ButterKnife Fork Knife Ladle Spatula Spoon",
        "Apple Egg Potato Tomato Lettuce Bread",
        "Pen Pencil",
        "PepperShaker SaltShaker",
        "Kettle Pan Pot",
        "Glassbottle SoapBottle SprayBottle WineBottle",
        "Cloth HandTowel Towel Pillow",
        "CellPhone CreditCard KeyChain RemoteControl Watch AlarmClock CD",
        "Book Box Laptop Newspaper",
        "Statue Vase Candle",
        "TissueBox ToiletPaper SoapBar DishSponge",
    )
)

_SETTING_DOWN = (
    "Toilet ArmChair SideTable Desk Sofa GarbageCan Shelf Dresser CoffeeTable ToiletPaperHanger Drawer"
    " Cabinet CounterTop DiningTable Bed Ottoman Microwave Safe Cart Fridge StoveBurner"
)

TASKS: dict[str, Task] = {
    "pick_and_place_simple": Task(
        sentences=("put a {obj} in {parent}.", "put some {obj} on {parent}."),
        objects=names(
            "ToiletPaper KeyChain SoapBottle SprayBottle CellPhone Candle Book CreditCard RemoteControl CD"
            " HandTowel Pencil AlarmClock Statue Laptop Pen Box Pillow Newspaper TissueBox PepperShaker"
            " Watch Tomato Vase Cloth Glassbottle DishSponge Kettle SaltShaker SoapBar Bowl ButterKnife Mug"
            " Pan WineBottle Egg Bread Fork Plate Potato Knife Lettuce"
        ),
        parents=names(_SETTING_DOWN),
    ),
    LAMP_TASK: Task(
        sentences=("look at {obj} under the {parent}.", "examine the {obj} with the {parent}."),
        objects=names(
            "Pillow AlarmClock CD Book Laptop Pencil Bowl Pen Newspaper Statue TissueBox Box CellPhone"
            " CreditCard KeyChain Watch Mug Vase Plate"
        ),
        parents=("DeskLamp",),
    ),
    "pick_clean_then_place_in_recep": Task(
        sentences=("put a clean {obj} in {parent}.", "clean some {obj} and put it in {parent}."),
        objects=names(
            "SoapBar Cloth Kettle Ladle Lettuce Mug Knife Pan Spatula ButterKnife Bowl Tomato Fork Egg"
            " Potato DishSponge Spoon Apple Plate Cup Pot"
        ),
        parents=names(
            "CounterTop DiningTable Drawer Cabinet Microwave Fridge Shelf SideTable StoveBurner Toilet"
            " CoffeeMachine GarbageCan Cart Dresser"
        ),
        flag="isClean",
        appliance="SinkBasin",
        needs="cleanable",
    ),
    "pick_heat_then_place_in_recep": Task(
        sentences=("put a hot {obj} in {parent}.", "heat some {obj} and put it in {parent}."),
        objects=names("Mug Egg Cup Tomato Potato Apple Plate Bread"),
        parents=names("Fridge Cabinet CounterTop GarbageCan CoffeeMachine SideTable DiningTable Shelf"),
        flag="isHot",
        appliance="Microwave",
        needs="heatable",
    ),
    "pick_cool_then_place_in_recep": Task(
        sentences=("put a cool {obj} in {parent}.", "cool some {obj} and put it in {parent}."),
        objects=names("Mug Pot Pan Bowl Apple Potato Lettuce Bread Cup Tomato Plate Egg WineBottle"),
        parents=names(
            "CounterTop Microwave DiningTable Cabinet CoffeeMachine GarbageCan Shelf StoveBurner SideTable"
        ),
        flag="isCool",
        appliance="Fridge",
        needs="coolable",
    ),
    "pick_two_obj_and_place": Task(
        sentences=("put two {obj} in {parent}.", "find two {obj} and put them in {parent}."),
        objects=names(
            "SprayBottle CellPhone CreditCard ToiletPaper RemoteControl SoapBottle Book KeyChain Newspaper"
            " Candle CD Pencil TissueBox Pen PepperShaker SaltShaker AlarmClock SoapBar HandTowel Cup Vase"
            " Watch Laptop Lettuce Statue Bowl Pillow Cloth DishSponge Spatula Kettle WineBottle Box Mug"
            " Plate Spoon Egg Glassbottle Ladle Potato Bread Knife Pan Pot Tomato Apple"
        ),
        parents=tuple(
            name for name in names(_SETTING_DOWN) if name not in ("ToiletPaperHanger", "StoveBurner")
        ),
        count=2,
    ),
}
