"""The words themselves, by class. Data only: what goes with them is the lexicon's part."""

GIRLS = """
Mia Lily Emma Anna Ella Sara Lucy Molly Nora Ruby Alice Amy Beth Bella Cara Clara Chloe Daisy Dora Eliza Eva
Fiona Flora Freya Gina Grace Greta Hanna Hazel Heidi Helen Holly Ida Irene Iris Isla Ivy Jane Jenny Jill
Josie Julia June Karen Kate Kira Lara Laura Lena Leah Lisa Lola Lotte Luna Maggie Maria Martha Mary Matilda
Maya Megan Milly Nadia Nancy Nelly Nina Olga Olive Olivia Pam Paula Penny Petra Phoebe Polly Rita Robin Rosa
Rosie Sally Selma Sofia Stella Susan Tara Tess Tilda Tina Ursula Vera Violet Wanda Wendy Willa Yara Zelda
Zoe Abby Agnes Bonnie Carmen Celia Della Edith Esther Frida Gemma Ingrid Jasmine Kitty Linda Mabel Naomi
Pearl Sylvia Thea
"""
BOYS = """
Tom Ben Max Sam Tim Jack Leo Adam Alan Alex Andy Anton Arthur Barry Bert Billy Bruno Carl Charlie Chris
Colin Conor Dan David Dean Dennis Derek Dylan Eddie Eli Emil Eric Ethan Evan Felix Finn Frank Fred Gary
George Gil Glen Gus Hal Harry Hector Henry Hugo Ian Isaac Ivan Jacob Jake James Jan Jason Jeff Jim Joe John
Jonas Josh Karl Keith Ken Kevin Kurt Lars Lenny Lewis Liam Louis Luca Luke Marco Mark Martin Matt Mike Milo
Moritz Nathan Neil Ned Nick Noah Oliver Oscar Otto Owen Paul Pedro Pete Phil Ralph Ray Rick Rob Roger Ron
Roy Ryan Scott Sean Seth Simon Stan Steve Ted Theo Toby Tony Victor Walter Will Zack
"""
SURNAMES = """
Adams Allen Baker Barnes Bell Bishop Brown Butler Carter Clark Cole Collins Cook Cooper Dale Davis Dean
Dixon Ellis Evans Fisher Flint Ford Foster Fox Gibson Grant Green Hall Harris Hill Hughes Hunt Hunter Jones
Kelly King Knight Lane Lee Lloyd Marsh Mason Miller Moore Morgan Murphy Nelson Newton Nolan Palmer Parker
Perry Porter Price Quinn Reed Rivers Ross Scott Sharp Shaw Smith Stone Taylor Turner Walker Ward Watson Webb
White Wilson Wood Woods Wright Young
"""
FAMILY = """
mother, father, grandmother, grandfather, aunt, uncle, big sister, big brother, stepmother, stepfather
"""
FIXTURES = """
bench bush cart table ladder wagon porch bridge hedge wheelbarrow log swing slide tent boat tractor hut
stairs haystack trailer hammock seesaw rock crate fence truck
"""

INFLECTED = {
    "flower": (
        "many",
        """
        rose/roses, tulip/tulips, daisy/daisies, lily/lilies, violet/violets, poppy/poppies,
        sunflower/sunflowers, daffodil/daffodils, orchid/orchids, pansy/pansies, marigold/marigolds,
        bluebell/bluebells, buttercup/buttercups, snowdrop/snowdrops, carnation/carnations, peony/peonies,
        primrose/primroses, dandelion/dandelions, hyacinth/hyacinths, geranium/geraniums, begonia/begonias,
        petunia/petunias, lupine/lupines, foxglove/foxgloves, cornflower/cornflowers, dahlia/dahlias,
        zinnia/zinnias, crocus/crocuses
        """,
    ),
    "skill": (
        "past ing",
        """
        swim/swam/swimming, dance/danced/dancing, sing/sang/singing, paint/painted/painting,
        juggle/juggled/juggling, whistle/whistled/whistling, skate/skated/skating, knit/knitted/knitting,
        draw/drew/drawing, dive/dived/diving, climb/climbed/climbing, cook/cooked/cooking,
        bake/baked/baking, read/read/reading, write/wrote/writing, row/rowed/rowing, sail/sailed/sailing,
        ride/rode/riding, ski/skied/skiing, hop/hopped/hopping, drum/drummed/drumming, sew/sewed/sewing,
        weave/wove/weaving, carve/carved/carving, surf/surfed/surfing, fish/fished/fishing,
        yodel/yodeled/yodeling, tumble/tumbled/tumbling, sculpt/sculpted/sculpting,
        cartwheel/cartwheeled/cartwheeling, snorkel/snorkeled/snorkeling, wrestle/wrestled/wrestling,
        fence/fenced/fencing, hum/hummed/humming, gallop/galloped/galloping, garden/gardened/gardening
        """,
    ),
}

PLAIN = {
    "trait": """
        kind, brave, clever, shy, cheerful, curious, gentle, funny, quiet, happy, lively, polite, patient,
        careful, friendly, honest, playful, thoughtful, bold, calm, helpful, merry, smart, sweet, loyal,
        generous, dreamy, sensible, stubborn, proud, jolly, modest, graceful, witty, daring, hopeful, eager,
        tidy, messy, chatty, wise, caring, adventurous, talkative, imaginative, sleepy, bashful, nimble,
        sturdy, plucky, humble, spirited, trusting, fearless, warmhearted, bright, earnest, mischievous,
        determined, charming, courteous, inventive, reliable, serious, skillful, peaceful, athletic,
        artistic, musical
    """,
    "village": """
        Willow Hill, Oakdale, Riverton, Maple Bay, Greenfield, Ashford, Appleby, Brookside, Cedar Creek,
        Clearwater, Dunmore, Elmwood, Fairview, Foxglen, Goldenfield, Hazelwood, Honeybrook, Kingsbury,
        Lakewood, Little Harbor, Marlow, Meadowbrook, Millbrook, Mossley, Newbridge, Northgate, Old Barrow,
        Otterby, Pinewood, Plumfield, Rosedale, Sandy Cove, Silverlake, Snowdale, Southport, Springfield,
        Stonebridge, Summerhill, Sweetwater, Thornbury, Underhill, Westbrook, Whitby, Winterton, Woodstock,
        Birchwood, Cliffside, Eastwood, Fernhill, Larkfield, Moorland, Oxbow, Ravenswood, Seaview,
        Thistledown
    """,
    "place": """
        river, park, forest, pond, lake, beach, meadow, market, school, library, mill, farm, garden, harbor,
        castle, church, bakery, station, playground, hill, bridge, orchard, well, barn, museum, theater,
        zoo, tower, lighthouse, waterfall, valley, cave, cliff, field, fountain, greenhouse, stable,
        windmill, dock, shore, creek, stream, island, marsh, swamp, quarry, railway, airport, hospital,
        bank, hotel, inn, cafe, bookshop, toyshop, dairy, smithy, workshop, sawmill, vineyard, pasture,
        paddock, henhouse, campground, stadium, gym, pool, rink, arena, circus, fairground, carousel,
        bandstand, statue, monument, palace, temple, chapel, abbey, courthouse, firehouse, laundry, nursery,
        kindergarten, academy, university, laboratory, observatory, aquarium, gallery, cinema, warehouse,
        boathouse, marina, pier, lagoon
    """,
    "weather": """
        sunny, warm, windy, cloudy, rainy, cold, foggy, snowy, hot, bright, chilly, breezy, gray, misty,
        frosty, mild, damp, crisp, gloomy, humid, drizzly, icy, muggy, blustery
    """,
    "time": """
        morning, afternoon, day, evening, Saturday, Sunday, Monday, Friday, Tuesday, Wednesday, Thursday
    """,
    "thing": """
        ball, kite, doll, drum, book, hat, cup, whistle, top, puppet, robot, truck, train, boat, bell, lamp,
        clock, basket, umbrella, mirror, marble, ring, necklace, bracelet, feather, shell, stone, button,
        key, lantern, flute, trumpet, violin, guitar, harp, banjo, bugle, fiddle, harmonica, accordion,
        tambourine, teapot, bowl, plate, spoon, vase, jar, mug, pitcher, kettle, pillow, blanket, cushion,
        quilt, scarf, ribbon, wallet, purse, backpack, suitcase, notebook, pencil, paintbrush, diary, map,
        globe, compass, telescope, magnet, camera, radio, watch, calendar, candle, crown, medal, trophy,
        badge, mask, flag, crystal, locket, brooch, yo-yo, puzzle, wagon, sled, scooter, skateboard,
        airplane, helicopter, rocket, submarine, dinosaur, dragon, unicorn, snowman, teddy, pinwheel,
        boomerang, balloon, bucket, shovel, birdhouse, stool, rattle, abacus, sword, shield, wand,
        hourglass, kaleidoscope, horseshoe, thimble, tricycle, parachute, xylophone, keyboard, postcard,
        bookmark, toolbox
    """,
    "look": """
        little, big, old, new, tiny, shiny, wooden, round, soft, pretty, striped, spotted, small, large,
        beautiful, lovely, fancy, plain, strange, magic, painted, glittering, sparkling, dusty, rusty,
        antique, modern, ancient, battered, polished, carved, checkered, dotted, fuzzy, golden, silver,
        copper, brass, iron, glass, plastic, tin, cheap, precious, rare, simple, splendid, marvelous,
        wonderful, unusual, handmade, secondhand, miniature, enormous, gigantic, slender, delicate,
        gleaming, faded, dull, foreign, elegant, colorful
    """,
    "colour": """
        red, blue, green, yellow, pink, purple, orange, white, black, brown, gray, turquoise, crimson,
        scarlet, violet, golden, silver, lilac, lavender, indigo, maroon, beige, cream, ivory, amber, teal,
        navy, peach, magenta, emerald
    """,
    "clothes": """
        scarf, coat, sweater, jacket, shirt, cape, vest, shawl, raincoat, cloak, apron, robe, tunic, poncho,
        bandana, cardigan, pullover, overcoat, kimono, headscarf, parka, anorak, kerchief, smock
    """,
    "animal": """
        rabbit, dog, cat, bird, duck, fox, squirrel, mouse, frog, turtle, kitten, puppy, hedgehog, goat,
        lamb, pony, owl, goose, hen, chick, deer, badger, otter, beaver, mole, raccoon, hamster, parrot,
        crow, robin, sparrow, swan, pigeon, donkey, calf, piglet, foal, fawn, duckling, gosling, lizard,
        toad, newt, snail, seal, penguin, pelican, seagull, heron, stork, crane, magpie, woodpecker,
        swallow, finch, canary, dove, pheasant, quail, peacock, rooster, turkey, weasel, ferret, chipmunk,
        porcupine, skunk, opossum, gerbil, hare, kingfisher, lark, raven, starling, tortoise
    """,
    "coat": """
        hungry, thin, wet, small, muddy, scared, tired, shivering, young, cold, weak, dirty, shaggy, skinny,
        tangled, trembling, scruffy, weary, homeless, frightened, abandoned, starving, timid
    """,
    "pet": """
        Biscuit, Patch, Pepper, Ginger, Button, Pebble, Snowy, Fluffy, Shadow, Buddy, Coco, Cookie, Dusty,
        Freckles, Fuzzy, Honey, Jelly, Lucky, Maple, Marble, Mittens, Muffin, Nibbles, Noodle, Nutmeg,
        Peanut, Pickle, Pip, Poppy, Pudding, Pumpkin, Rusty, Scout, Smoky, Snickers, Socks, Sparky, Speckle,
        Spot, Sprout, Sugar, Sunny, Tiger, Toffee, Twinkle, Waffles, Whiskers, Ziggy, Acorn, Bamboo, Bingo,
        Bubbles, Cinnamon, Clover, Domino, Flash, Hopper, Jumper, Paws, Rocky, Skipper, Velvet, Zippy
    """,
    "food": """
        bread, soup, cake, pie, berries, apples, cookies, cheese, honey, nuts, carrots, grapes, pears,
        plums, cherries, pancakes, waffles, muffins, rice, pasta, noodles, porridge, jam, butter, milk,
        eggs, corn, beans, peas, potatoes, tomatoes, lettuce, cabbage, spinach, turnips, radishes,
        cucumbers, pumpkin, mushrooms, oranges, lemons, melons, peaches, apricots, bananas, pineapple,
        strawberries, raspberries, blueberries, blackberries, raisins, almonds, walnuts, chestnuts,
        hazelnuts, peanuts, seeds, oats, toast, crackers, biscuits, pretzels, dumplings, sandwiches,
        sausages, ham, fish, chicken, stew, salad, yogurt, pudding, custard, chocolate, candy, popcorn,
        gingerbread, marmalade, syrup, scones, tarts, doughnuts, buns, rolls, figs, dates, cranberries,
        celery, broccoli, olives, parsnips, beets, onions
    """,
    "job": """
        baker, farmer, teacher, doctor, nurse, gardener, painter, tailor, carpenter, sailor, singer, dancer,
        cook, miller, potter, weaver, plumber, librarian, builder, driver, dentist, firefighter, shepherd,
        beekeeper, blacksmith, cobbler, clockmaker, shoemaker, toymaker, writer, poet, drummer, juggler,
        magician, clown, inventor, scientist, explorer, judge, mayor, banker, clerk, grocer, butcher,
        florist, barber, hairdresser, jeweler, printer, mechanic, engineer, electrician, locksmith,
        lifeguard, ranger, zookeeper, photographer, reporter, actor, conductor, captain, guard, coach,
        violinist, pianist, astronomer, botanist, roofer, waiter, chef, pharmacist, architect, astronaut,
        pilot, detective, translator, surgeon, soldier, lawyer, bookkeeper, candlemaker, basketmaker,
        ferryman, goldsmith, glassblower, stonemason, bricklayer, porter, acrobat, trapper, fiddler,
        dressmaker, innkeeper, watchmaker, beautician, publisher, sculptor, gymnast, composer
    """,
    "box": """
        basket, box, bag, bowl, jar, pot, tin, bucket, sack, crate, chest, barrel, tub, pail, trunk, hamper,
        tray, pouch, trough, urn
    """,
    "tree": """
        oak, apple, pine, willow, maple, cherry, birch, elm, pear, chestnut, beech, ash, fir, cedar, poplar,
        linden, plum, walnut, fig, olive, spruce, sycamore, palm, cypress, larch, hazel, hawthorn, juniper,
        magnolia, redwood, alder, rowan
    """,
    "material": """
        wood, paper, wool, clay, string, cloth, cardboard, wire, straw, glue, felt, thread, rope, tape, wax,
        leather, cotton, yarn, bark, silk, plaster, tinfoil, ribbon, lace, bamboo, canvas, linen, twine,
        burlap, foam
    """,
    "tool": """
        hammer, needle, screwdriver, saw, brush, chisel, wrench, knife, file, drill, pair of scissors, pair
        of pliers, soldering iron, magnifying glass, clamp, ruler, mallet, trowel, rasp, spanner, awl,
        crowbar, vise
    """,
    "game": """
        tag, chess, football, marbles, hide-and-seek, checkers, hopscotch, cards, soccer, baseball, catch,
        dominoes, leapfrog, tennis, basketball, badminton, cricket, hockey, golf, croquet, darts, bingo,
        charades, rugby, volleyball, bowling, polo, jacks
    """,
    "sound": """
        crash, bang, crack, thud, clatter, clang, crunch, snap, smash, bump, boom, thump, whack
    """,
    "number": """
        two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, fifteen, twenty, thirty, forty
    """,
    "happy": """
        happy, glad, proud, cheerful, thankful, delighted, joyful, pleased, content, merry, grateful, lucky,
        excited, peaceful, safe, relieved, thrilled, overjoyed, jolly, satisfied, lighthearted, blissful
    """,
    "sad": """
        sad, worried, upset, unhappy, sorry, lonely, afraid, miserable, ashamed, gloomy, nervous,
        troubled, tearful, anxious, hopeless, disappointed, heartbroken, helpless, guilty, jealous, bitter,
        discouraged, downcast, restless, confused, embarrassed, uneasy
    """,
    "adverb": """
        quickly, softly, gently, happily, quietly, kindly, bravely, proudly, calmly, warmly, cheerfully,
        eagerly, carefully, politely, patiently, sweetly, shyly, gladly, boldly, excitedly, merrily, firmly,
        nervously, thoughtfully, tenderly, playfully, lovingly, earnestly, joyfully, gracefully, anxiously,
        curiously, gratefully, briskly, timidly
    """,
}
