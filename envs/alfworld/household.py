"""What a household looks like: rooms, furniture, objects, where things are kept.

Owns the tables that the generator draws from. They are condensed from the 3,961 official games (shares
and mean counts, in percent and pieces), except HOLDS and FLAGS, which hold in every one of those games
exactly. Leaves out what is asked for (`chores`), how a game is drawn (`generate`) and how it is written
down (`problem`).
"""

from __future__ import annotations

from dataclasses import dataclass


def names(line: str) -> tuple[str, ...]:
    """Split a line of a table."""
    return tuple(line.split())


def _weights(line: str) -> dict[str, float]:
    words = line.split()
    return {name: float(share) for name, share in zip(words[::2], words[1::2], strict=True)}


@dataclass(frozen=True)
class Room:
    """One kind of room.

    Attributes:
        scenes: first and last scene number of this kind, as in the official games.
        receptacles: type -> (mean count, largest count).
        objects: movable object type -> share of rooms that have it, in percent.
        fixtures: immovable object type -> share of rooms that have it, in percent.
    """

    scenes: tuple[int, int]
    receptacles: dict[str, tuple[float, int]]
    objects: dict[str, float]
    fixtures: dict[str, float]


def _furniture(line: str) -> dict[str, tuple[float, int]]:
    words = line.split()
    triples = zip(words[::3], words[1::3], words[2::3], strict=True)
    return {name: (float(mean), int(most)) for name, mean, most in triples}


ROOMS: dict[str, Room] = {
    "kitchen": Room(
        scenes=(1, 30),
        receptacles=_furniture(
            "Cabinet 13.5 27  CoffeeMachine 1 1  CounterTop 2.3 4  DiningTable 0.7 3  Drawer 5.8 27"
            " Fridge 1 1  GarbageCan 1 1  Microwave 1 1  Safe 0.1 1  Shelf 0.7 3  SideTable 0.2 1"
            " SinkBasin 1 1  StoveBurner 4.1 6  Toaster 1 1"
        ),
        objects=_weights(
            "Spoon 100 Mug 100 Bread 100 SoapBottle 100 Pot 100 Cup 100 Fork 100 Knife 100"
            " PepperShaker 100 Potato 100 Egg 100 Tomato 100 Bowl 100 DishSponge 100 Apple 100"
            " Lettuce 100 Pan 100 Plate 100 Spatula 100 SaltShaker 100 ButterKnife 97 Kettle 50"
            " WineBottle 41 Ladle 34 Glassbottle 26 Vase 18 Statue 18 CellPhone 14 CreditCard 11"
            " Book 11 Pencil 7 SprayBottle 7 Pen 6"
        ),
        fixtures=_weights(
            "StoveKnob 100 Sink 100 LightSwitch 100 Window 89 Chair 85 HousePlant 38 Blinds 20"
        ),
    ),
    "living": Room(
        scenes=(201, 230),
        receptacles=_furniture(
            "ArmChair 1.3 3  Cabinet 0.7 8  CoffeeTable 1 2  Desk 0.1 1  DiningTable 0.6 2"
            " Drawer 4.0 21  Dresser 0.4 2  GarbageCan 1 1  Ottoman 0.1 1  Safe 0.1 1  Shelf 2.4 14"
            " SideTable 1.7 5  Sofa 1.2 2  TVStand 0.4 2"
        ),
        objects=_weights(
            "RemoteControl 100 CreditCard 100 Box 100 Laptop 100 KeyChain 100 Pillow 100 Statue 97"
            " Newspaper 61 Vase 57 Watch 50 Plate 35 TissueBox 35 Book 27 CellPhone 21 Pen 19 Pencil 16"
            " Bowl 11 Candle 10"
        ),
        fixtures=_weights(
            "FloorLamp 100 LightSwitch 100 Television 100 HousePlant 100 Painting 100 Window 96 Chair 70"
            " Curtains 34 DeskLamp 25 Mirror 11"
        ),
    ),
    "bedroom": Room(
        scenes=(301, 330),
        receptacles=_furniture(
            "ArmChair 0.3 3  Bed 1.2 2  Cabinet 0.4 4  CounterTop 0.1 1  Desk 0.8 2  DiningTable 0.1 1"
            " Drawer 5.9 17  Dresser 0.5 2  GarbageCan 1 1  LaundryHamper 0.3 1  Safe 0.2 1  Shelf 3.0 14"
            " SideTable 0.8 2"
        ),
        objects=_weights(
            "Pencil 100 KeyChain 100 CreditCard 100 CellPhone 100 Laptop 100 CD 100 AlarmClock 100"
            " Pen 100 Book 100 Pillow 100 Mug 52 Bowl 46 Box 46 Cloth 18 Statue 14 TissueBox 13"
            " RemoteControl 12 Watch 7 Vase 6"
        ),
        fixtures=_weights(
            "Window 100 LightSwitch 100 Mirror 100 Blinds 91 Chair 79 DeskLamp 72 Painting 42"
            " LaundryHamperLid 28 HousePlant 27 Poster 22 Television 12 Curtains 6"
        ),
    ),
    "bathroom": Room(
        scenes=(401, 430),
        receptacles=_furniture(
            "BathtubBasin 0.7 1  Cabinet 1.9 9  Cart 0.1 1  CounterTop 1 2  Drawer 2.6 8  Dresser 0.1 1"
            " GarbageCan 1 1  HandTowelHolder 1.5 4  Shelf 0.5 4  SideTable 0.1 1  SinkBasin 1.5 2"
            " Toilet 1 1  ToiletPaperHanger 1 1  TowelHolder 1.3 2"
        ),
        objects=_weights(
            "Candle 100 ToiletPaper 100 Cloth 100 SprayBottle 100 SoapBottle 100 SoapBar 100"
            " HandTowel 100 Towel 100 TissueBox 25 DishSponge 23"
        ),
        fixtures=_weights(
            "Mirror 100 Sink 100 LightSwitch 100 Bathtub 70 Window 66 ShowerDoor 58 ShowerGlass 42"
            " FloorLamp 9 Painting 5 HousePlant 4"
        ),
    ),
}

# Share of receptacles of a type that open, in percent; every other type never does.
OPENABLE: dict[str, float] = _weights("Cabinet 82 Drawer 84 Fridge 100 Microwave 100 Safe 84")

FLAGS: dict[str, frozenset[str]] = {
    "cleanable": frozenset(
        names(
            "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Kettle Knife Ladle Lettuce Mug Pan Plate"
            " Pot Potato SoapBar Spatula Spoon Tomato"
        )
    ),
    "heatable": frozenset(names("Apple Bread Cup Egg Mug Plate Potato Tomato")),
    "coolable": frozenset(
        names("Apple Bowl Bread Cup Egg Lettuce Mug Pan Plate Pot Potato Tomato WineBottle")
    ),
    "sliceable": frozenset(names("Apple Bread Egg Lettuce Potato Tomato")),
    "isReceptacleObject": frozenset(names("Bowl Box Cup Mug Pan Plate Pot")),
    "toggleable": frozenset(names("DeskLamp FloorLamp")),
}

# Where an object lies at the start: receptacle type -> share, in percent. An immovable object that is
# not listed stands on the floor.
PLACES: dict[str, dict[str, float]] = {
    name: _weights(line)
    for name, line in {
        "AlarmClock": "Desk 34 Shelf 22 SideTable 19 Dresser 17 DiningTable 7",
        "Apple": "Fridge 25 CounterTop 24 DiningTable 15 Microwave 13 GarbageCan 13 SinkBasin 9",
        "Book": "Bed 37 Desk 14 CounterTop 10 Drawer 10 Dresser 6 DiningTable 5 Cabinet 4 SideTable 4 "
        "CoffeeTable 3 ArmChair 3",
        "Bowl": "Cabinet 30 Fridge 18 CounterTop 18 DiningTable 14 Desk 6 Shelf 6 SinkBasin 3 Microwave 2",
        "Box": "DiningTable 24 Sofa 23 CoffeeTable 21 Shelf 8 SideTable 8 Desk 6 Dresser 4 Cabinet 4 "
        "ArmChair 3",
        "Bread": "CounterTop 56 DiningTable 30 Fridge 13",
        "ButterKnife": "CounterTop 59 DiningTable 26 Drawer 8 SinkBasin 6",
        "CD": "Drawer 29 Desk 21 Dresser 14 SideTable 13 GarbageCan 8 Shelf 8 DiningTable 6",
        "Candle": "CounterTop 28 Toilet 28 Cabinet 13 Drawer 12 Shelf 7 SideTable 6 CoffeeTable 2",
        "CellPhone": "Drawer 21 Bed 21 Desk 13 CounterTop 10 Dresser 9 SideTable 8 Shelf 6 DiningTable 6 "
        "ArmChair 3",
        "Cloth": "BathtubBasin 29 Cabinet 20 CounterTop 16 Drawer 15 SinkBasin 8 Shelf 5 Toilet 3",
        "CreditCard": "Drawer 25 Shelf 14 SideTable 12 Desk 9 Dresser 9 CounterTop 7 Sofa 7 ArmChair 6 "
        "CoffeeTable 5 DiningTable 5",
        "Cup": "Cabinet 23 Fridge 21 CounterTop 21 DiningTable 14 SinkBasin 10 Microwave 7 Shelf 2",
        "DeskLamp": "SideTable 39 Desk 30 Dresser 20 Shelf 10 CoffeeTable 1",
        "DishSponge": "CounterTop 25 Cabinet 23 Drawer 21 DiningTable 12 SinkBasin 8 GarbageCan 5 Shelf 3",
        "Egg": "Fridge 25 CounterTop 24 SinkBasin 13 GarbageCan 13 Microwave 12 DiningTable 11",
        "Fork": "CounterTop 45 DiningTable 23 Drawer 22 SinkBasin 9",
        "Glassbottle": "Cabinet 34 CounterTop 30 DiningTable 13 SinkBasin 10 Fridge 8 Shelf 4",
        "HandTowel": "HandTowelHolder 96 CounterTop 4",
        "HousePlant": "CounterTop 45 SideTable 15 DiningTable 13 Shelf 7 CoffeeTable 7 Desk 5 Dresser 4",
        "Kettle": "StoveBurner 41 CounterTop 26 Cabinet 24 DiningTable 7",
        "KeyChain": "Drawer 23 SideTable 16 Desk 12 Shelf 12 Dresser 11 CoffeeTable 7 DiningTable 6 "
        "ArmChair 5 Sofa 5 Safe 3",
        "Knife": "CounterTop 50 DiningTable 25 Drawer 20 SinkBasin 5",
        "Ladle": "CounterTop 42 Cabinet 24 Drawer 18 DiningTable 14 SinkBasin 2",
        "Laptop": "Bed 48 Desk 12 Sofa 10 DiningTable 9 CoffeeTable 9 Dresser 5 SideTable 3 ArmChair 3",
        "Lettuce": "CounterTop 41 DiningTable 28 Fridge 23 SinkBasin 5",
        "Mug": "CounterTop 24 CoffeeMachine 14 Cabinet 14 Fridge 12 DiningTable 10 Microwave 6 Desk 6 "
        "SinkBasin 5 Shelf 4 SideTable 3 Dresser 2",
        "Newspaper": "Sofa 21 CoffeeTable 18 DiningTable 17 SideTable 14 Shelf 11 Dresser 8 ArmChair 7 "
        "Drawer 2",
        "Pan": "StoveBurner 53 CounterTop 32 Cabinet 7 DiningTable 4 Fridge 4",
        "Pen": "Desk 22 Drawer 17 Dresser 14 SideTable 13 Shelf 13 DiningTable 10 CounterTop 5 "
        "CoffeeTable 3 GarbageCan 2",
        "Pencil": "Drawer 20 Desk 19 SideTable 17 Shelf 14 Dresser 10 DiningTable 8 GarbageCan 6 "
        "CounterTop 4 CoffeeTable 2",
        "PepperShaker": "Cabinet 33 CounterTop 30 DiningTable 16 Drawer 15 Shelf 4 SideTable 2",
        "Pillow": "Bed 69 Sofa 24 ArmChair 6",
        "Plate": "Cabinet 37 CounterTop 27 DiningTable 18 Fridge 9 Shelf 3 SinkBasin 2",
        "Pot": "StoveBurner 74 CounterTop 14 Fridge 4 DiningTable 4 Cabinet 3",
        "Potato": "CounterTop 29 Fridge 26 DiningTable 16 SinkBasin 11 Microwave 10 GarbageCan 6",
        "RemoteControl": "CoffeeTable 22 Sofa 18 SideTable 14 DiningTable 10 Drawer 9 ArmChair 9 "
        "Dresser 8 Desk 5 Shelf 3",
        "SaltShaker": "Cabinet 32 CounterTop 31 DiningTable 17 Drawer 15 Shelf 3 SideTable 2",
        "SoapBar": "CounterTop 20 Toilet 16 SinkBasin 15 Cabinet 12 BathtubBasin 11 Drawer 11 "
        "GarbageCan 7 Shelf 4",
        "SoapBottle": "CounterTop 32 Cabinet 28 DiningTable 15 GarbageCan 10 Toilet 6 Shelf 5",
        "Spatula": "CounterTop 45 DiningTable 24 Drawer 21 SinkBasin 9",
        "Spoon": "CounterTop 38 Drawer 28 DiningTable 21 SinkBasin 11",
        "SprayBottle": "CounterTop 32 Toilet 23 Cabinet 19 GarbageCan 10 Shelf 6 Cart 3 DiningTable 3 "
        "SideTable 2",
        "Statue": "Shelf 30 CounterTop 17 CoffeeTable 16 DiningTable 14 SideTable 13 Dresser 7 Desk 2",
        "Television": "Dresser 46 TVStand 42 CoffeeTable 9 SideTable 3",
        "TissueBox": "Shelf 18 CoffeeTable 14 Drawer 14 CounterTop 13 SideTable 12 DiningTable 12 Desk 8 "
        "TVStand 3",
        "ToiletPaper": "Toilet 23 CounterTop 22 Cabinet 12 ToiletPaperHanger 12 Drawer 11 GarbageCan 9 "
        "Shelf 6",
        "Tomato": "Fridge 33 CounterTop 30 DiningTable 19 GarbageCan 9 SinkBasin 7",
        "Towel": "TowelHolder 100",
        "Vase": "Shelf 36 Cabinet 17 CounterTop 17 CoffeeTable 9 DiningTable 8 Dresser 7 SideTable 6",
        "Watch": "Drawer 24 CoffeeTable 23 SideTable 18 DiningTable 13 Dresser 12 Shelf 7 Desk 3",
        "WineBottle": "CounterTop 36 Cabinet 25 DiningTable 24 GarbageCan 9 Shelf 3",
    }.items()
}

# canContain: receptacle type -> object types it may hold. The game file lists only those types that are
# present in its room; restricted in that way, the table holds in every official game.
HOLDS: dict[str, frozenset[str]] = {
    name: frozenset(names(line))
    for name, line in {
        "ArmChair": "Book Box CellPhone Cloth CreditCard KeyChain Laptop Newspaper Pillow RemoteControl",
        "BathtubBasin": "Cloth DishSponge HandTowel SoapBar",
        "Bed": "BaseballBat BasketBall Book CellPhone Laptop Pillow TennisRacket",
        "Cabinet": "Book Bowl Box CD Candle Cloth Cup DishSponge Glassbottle HandTowel Kettle Ladle Mug "
        "Newspaper Pan PepperShaker Plate Plunger Pot SaltShaker SoapBar SoapBottle "
        "SprayBottle TissueBox ToiletPaper Vase WateringCan WineBottle",
        "Cart": "Candle Cloth DishSponge HandTowel Plunger SoapBar SoapBottle SprayBottle TissueBox "
        "ToiletPaper",
        "CoffeeMachine": "Mug",
        "CoffeeTable": "Book Bowl Box Candle CellPhone CreditCard KeyChain Laptop Newspaper Pen Pencil Plate "
        "RemoteControl Statue TissueBox Vase Watch WateringCan",
        "CounterTop": "AlarmClock Apple Book Bowl Bread ButterKnife CD Candle CellPhone Cloth CreditCard "
        "Cup DishSponge Egg Fork Glassbottle HandTowel Kettle KeyChain Knife Ladle Laptop "
        "Lettuce Mug Pan Pen Pencil PepperShaker Plate Pot Potato RemoteControl SaltShaker "
        "SoapBar SoapBottle Spatula Spoon SprayBottle Statue TissueBox ToiletPaper Tomato "
        "Vase WineBottle",
        "Desk": "AlarmClock BasketBall Book Bowl Box CD CellPhone Cloth CreditCard KeyChain Laptop "
        "Mug Pen Pencil RemoteControl Statue TennisRacket TissueBox Vase Watch WateringCan",
        "DiningTable": "AlarmClock Apple BaseballBat BasketBall Book Bowl Box Bread ButterKnife CD Candle "
        "CellPhone Cloth CreditCard Cup DishSponge Egg Fork Glassbottle Kettle KeyChain Knife "
        "Ladle Laptop Lettuce Mug Newspaper Pan Pen Pencil PepperShaker Plate Pot Potato "
        "RemoteControl SaltShaker SoapBottle Spatula Spoon SprayBottle Statue TennisRacket "
        "TissueBox Tomato Vase Watch WateringCan WineBottle",
        "Drawer": "Book ButterKnife CD Candle CellPhone Cloth CreditCard DishSponge Fork HandTowel "
        "KeyChain Knife Ladle Newspaper Pen Pencil PepperShaker RemoteControl SaltShaker "
        "SoapBar SoapBottle Spatula Spoon SprayBottle TissueBox ToiletPaper Watch WateringCan",
        "Dresser": "AlarmClock BasketBall Book Bowl Box CD Candle CellPhone Cloth CreditCard KeyChain "
        "Laptop Mug Newspaper Pen Pencil Plate RemoteControl SprayBottle Statue TennisRacket "
        "TissueBox ToiletPaper Vase Watch WateringCan",
        "Fridge": "Apple Bowl Bread Cup Egg Glassbottle Lettuce Mug Pan Plate Pot Potato Tomato WineBottle",
        "GarbageCan": "Apple Bread CD Cloth DishSponge Egg HandTowel Lettuce Newspaper Pen Pencil Potato "
        "SoapBar SoapBottle SprayBottle TissueBox ToiletPaper Tomato WineBottle",
        "HandTowelHolder": "HandTowel",
        "LaundryHamper": "Cloth",
        "Microwave": "Apple Bowl Bread Cup Egg Glassbottle Mug Plate Potato Tomato",
        "Ottoman": "Book Box CellPhone CreditCard KeyChain Laptop Newspaper Pillow RemoteControl",
        "Safe": "CD CellPhone CreditCard KeyChain Statue Vase Watch",
        "Shelf": "AlarmClock Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup DishSponge "
        "Glassbottle HandTowel Kettle KeyChain Mug Newspaper Pen Pencil PepperShaker Plate "
        "Pot RemoteControl SaltShaker SoapBar SoapBottle SprayBottle Statue TissueBox "
        "ToiletPaper Vase Watch WateringCan WineBottle",
        "SideTable": "AlarmClock Apple BaseballBat BasketBall Book Bowl Box Bread ButterKnife CD Candle "
        "CellPhone Cloth CreditCard Cup DishSponge Egg Fork HandTowel Kettle KeyChain Knife "
        "Laptop Lettuce Mug Newspaper Pan Pen Pencil PepperShaker Plate Pot Potato "
        "RemoteControl SaltShaker SoapBar SoapBottle Spatula Spoon SprayBottle Statue "
        "TennisRacket TissueBox ToiletPaper Tomato Vase Watch WateringCan WineBottle",
        "SinkBasin": "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Glassbottle HandTowel Kettle "
        "Knife Ladle Lettuce Mug Pan Plate Pot Potato SoapBar Spatula Spoon Tomato",
        "Sofa": "Book Box CellPhone CreditCard KeyChain Laptop Newspaper Pillow RemoteControl",
        "StoveBurner": "Kettle Pan Pot",
        "TVStand": "TissueBox",
        "Toaster": "",
        "ToiletPaperHanger": "ToiletPaper",
        "Toilet": "Candle Cloth DishSponge HandTowel SoapBar SoapBottle SprayBottle TissueBox ToiletPaper",
        "TowelHolder": "Towel",
    }.items()
}
