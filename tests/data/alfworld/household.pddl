; A household written by hand for the tests of the rules and texts; small, and with every oddity of the real games:
; two cabinets share a standing point, the apple's own point (where the cabinets are) is not that of the counter it
; lies on, the knife is in the sink and in its basin at once, the wine bottle is cold from the start but cannot be
; heated, the lamp stands on the counter, and the second apple is in the bowl as well as in the fridge.
(define (problem household)
(:domain alfred)
(:objects
    agent1 - agent
    loc_bar_0 loc_bar_1 loc_bar_2 - location
    loc_bar_3 - location loc_bar_4 - location
    Cabinet_bar_1 - receptacle  Cabinet_bar_2 - receptacle  CounterTop_bar_1 - receptacle
    Fridge_bar_1 - receptacle  Microwave_bar_1 - receptacle
    Sink_bar_1 - receptacle  Sink_bar_1_bar_SinkBasin - receptacle
    Apple_bar_1 - object  Apple_bar_2 - object  Bowl_bar_1 - object  DeskLamp_bar_1 - object
    Knife_bar_1 - object  WineBottle_bar_1 - object  Window_bar_1 - object
    CabinetType - rtype  CounterTopType - rtype  FridgeType - rtype  MicrowaveType - rtype
    SinkType - rtype  SinkBasinType - rtype
    AppleType - otype  BowlType - otype  DeskLampType - otype  KnifeType - otype  WineBottleType - otype
    WindowType - otype
)
(:init
    (receptacleType Cabinet_bar_1 CabinetType) (receptacleType Cabinet_bar_2 CabinetType)
    (receptacleType CounterTop_bar_1 CounterTopType) (receptacleType Fridge_bar_1 FridgeType)
    (receptacleType Microwave_bar_1 MicrowaveType)
    (receptacleType Sink_bar_1 SinkType) (receptacleType Sink_bar_1_bar_SinkBasin SinkBasinType)
    (receptacleAtLocation Cabinet_bar_1 loc_bar_1) (receptacleAtLocation Cabinet_bar_2 loc_bar_1)
    (receptacleAtLocation CounterTop_bar_1 loc_bar_2)
    (receptacleAtLocation Fridge_bar_1 loc_bar_3) (receptacleAtLocation Microwave_bar_1 loc_bar_3)
    (receptacleAtLocation Sink_bar_1 loc_bar_4) (receptacleAtLocation Sink_bar_1_bar_SinkBasin loc_bar_4)
    (openable Cabinet_bar_1) (openable Fridge_bar_1) (openable Microwave_bar_1)
    (canContain CabinetType AppleType) (canContain CabinetType BowlType) (canContain CabinetType WineBottleType)
    (canContain CounterTopType AppleType) (canContain CounterTopType BowlType)
    (canContain CounterTopType KnifeType) (canContain CounterTopType WineBottleType)
    (canContain FridgeType AppleType) (canContain FridgeType BowlType) (canContain FridgeType WineBottleType)
    (canContain MicrowaveType AppleType) (canContain MicrowaveType BowlType)
    (canContain SinkBasinType AppleType) (canContain SinkBasinType BowlType) (canContain SinkBasinType KnifeType)
    (objectType Apple_bar_1 AppleType) (objectType Apple_bar_2 AppleType) (objectType Bowl_bar_1 BowlType)
    (objectType DeskLamp_bar_1 DeskLampType) (objectType Knife_bar_1 KnifeType)
    (objectType WineBottle_bar_1 WineBottleType) (objectType Window_bar_1 WindowType)
    (objectAtLocation Apple_bar_1 loc_bar_1) (objectAtLocation Apple_bar_2 loc_bar_3)
    (objectAtLocation Bowl_bar_1 loc_bar_3) (objectAtLocation DeskLamp_bar_1 loc_bar_2)
    (objectAtLocation Knife_bar_1 loc_bar_4) (objectAtLocation WineBottle_bar_1 loc_bar_3)
    (objectAtLocation Window_bar_1 loc_bar_4)
    (inReceptacle Apple_bar_1 CounterTop_bar_1) (inReceptacle DeskLamp_bar_1 CounterTop_bar_1)
    (inReceptacle Apple_bar_2 Fridge_bar_1) (inReceptacle Bowl_bar_1 Fridge_bar_1)
    (inReceptacle WineBottle_bar_1 Fridge_bar_1)
    (inReceptacle Knife_bar_1 Sink_bar_1) (inReceptacle Knife_bar_1 Sink_bar_1_bar_SinkBasin)
    (inReceptacleObject Apple_bar_2 Bowl_bar_1) (isReceptacleObject Bowl_bar_1)
    (pickupable Apple_bar_1) (pickupable Apple_bar_2) (pickupable Bowl_bar_1) (pickupable Knife_bar_1)
    (pickupable WineBottle_bar_1)
    (cleanable Apple_bar_1) (cleanable Apple_bar_2) (cleanable Bowl_bar_1) (cleanable Knife_bar_1)
    (heatable Apple_bar_1) (heatable Apple_bar_2)
    (coolable Apple_bar_1) (coolable Apple_bar_2) (coolable Bowl_bar_1) (coolable WineBottle_bar_1)
    (sliceable Apple_bar_1) (sliceable Apple_bar_2)
    (toggleable DeskLamp_bar_1)
    (isCool Apple_bar_2) (isCool WineBottle_bar_1)
    (atLocation agent1 loc_bar_0)
)
(:goal
    (and
        (exists (?r - receptacle)
            (exists (?o - object)
                (and
                    (cleanable ?o)
                    (objectType ?o AppleType)
                    (receptacleType ?r CabinetType)
                    (isClean ?o)
                    (inReceptacle ?o ?r)
                )
            )
        )
    )
)
)
